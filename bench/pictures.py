"""Pictures of what was measured, as SVG: latency against throughput, a line for each peer, a point for each number of connections."""

import html, math

WIDTH, HEIGHT, MARGIN = 640, 400, 60
COLOURS = {"insid": "#c0392b", "bare": "#7f8c8d", "redis-fsync": "#2980b9", "redis-memory": "#8e44ad", "etcd": "#27ae60"}


def draw(rows, out):
    """Writes one picture for each operation and size of values; yields their paths."""
    for operation, value_bytes in dict.fromkeys((row["operation"], row["value_bytes"]) for row in rows):
        lines = {}
        for row in rows:
            if (row["operation"], row["value_bytes"]) == (operation, value_bytes):
                lines.setdefault(row["peer"], []).append((row["rate"], row["p99"], row["connections"]))
        path = out / f"{operation.replace(' ', '-')}-{value_bytes}.svg"
        path.write_text(picture(f"{operation}, values of {value_bytes:,} bytes: p99 against throughput", lines))
        yield path


def picture(title, lines):
    points = [point for line in lines.values() for point in line]
    # Both axes by powers of ten: rates and latencies differ by orders of magnitude.
    low_x, high_x = bounds([rate for rate, _, _ in points])
    low_y, high_y = bounds([p99 for _, p99, _ in points])
    def x(rate):
        return MARGIN + (math.log10(rate) - low_x) / (high_x - low_x) * (WIDTH - 2 * MARGIN)
    def y(p99):
        return HEIGHT - MARGIN - (math.log10(p99) - low_y) / (high_y - low_y) * (HEIGHT - 2 * MARGIN)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
             f'<text x="{WIDTH / 2}" y="24" text-anchor="middle" font-size="14">{html.escape(title)}</text>',
             f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle">operations per second</text>',
             f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})">p99, ms</text>']
    for power in range(low_x, high_x + 1):
        at = x(10 ** power)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{MARGIN}" y2="{HEIGHT - MARGIN}" stroke="#ddd"/>')
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">{10 ** power:,}</text>')
    for power in range(low_y, high_y + 1):
        at = y(10 ** power)
        parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{MARGIN - 6}" y="{at + 4:.1f}" text-anchor="end">{10 ** power:g}</text>')
    for place, (peer, line) in enumerate(lines.items()):
        colour = COLOURS.get(peer, "black")
        line = sorted(line, key=lambda point: point[2])
        path = " ".join(f"{x(rate):.1f},{y(p99):.1f}" for rate, p99, _ in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for rate, p99, connections in line:
            parts.append(f'<circle cx="{x(rate):.1f}" cy="{y(p99):.1f}" r="3" fill="{colour}"><title>'
                         f'{html.escape(peer)}, {connections} connections: {rate:,.0f}/s, {p99:.2f} ms</title></circle>')
        parts.append(f'<text x="{MARGIN + 8}" y="{MARGIN + 16 + 16 * place}" fill="{colour}">{html.escape(peer)}</text>')
    return "\n".join(parts) + "\n</svg>\n"


def bounds(values):
    """The powers of ten around the values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)
