"""Pictures of what was measured, as SVG: latency against throughput, and latency over time."""

import html, math

WIDTH, HEIGHT, MARGIN = 640, 400, 60
COLOURS = {"insid": "#c0392b", "bare": "#7f8c8d", "redis-fsync": "#2980b9", "redis-memory": "#8e44ad", "etcd": "#27ae60",
           "leader of three": "#d35400", "follower of three": "#16a085", "p50": "#27ae60", "p99": "#2980b9", "max": "#c0392b", "fdatasync": "#f39c12"}
OTHER = "#34495e"


def draw(rows, context):
    """Writes a picture for each operation that was measured with several numbers of connections; yields their names."""
    rows = [row for row in rows if "connections" in row and row.get("p99")]
    for what in dict.fromkeys((row["operation"], row["value_bytes"], row["keys"]) for row in rows):
        operation, value_bytes, keys = what
        lines = {}
        for row in rows:
            if (row["operation"], row["value_bytes"], row["keys"]) == what:
                lines.setdefault(row["peer"], []).append((row["rate"], row["p99"], row["connections"]))
        if max(len(line) for line in lines.values()) > 1:
            name = f"{operation.replace(' ', '-').replace('/', '-')}-{value_bytes}-{keys}.svg"
            context.picture(name, against_throughput(f"{operation}, {keys:,} keys, values of {value_bytes:,} bytes: p99 against throughput", lines))
            yield context.out / name


def against_throughput(title, lines):
    """A line for each peer, a point for each number of connections."""
    points = [point for line in lines.values() for point in line]
    plane = Plane(title, "operations per second", "p99, ms", bounds([rate for rate, _, _ in points]), bounds([p99 for _, p99, _ in points]))
    for place, (peer, line) in enumerate(lines.items()):
        line = sorted(line, key=lambda point: point[2])
        plane.line(peer, place, [(rate, p99) for rate, p99, _ in line])
        for rate, p99, connections in line:
            plane.point(peer, rate, p99, f"{peer}, {connections} connections: {rate:,.0f}/s, {p99:.2f} ms")
    return plane.text()


def over_time(title, series, marks):
    """Median, p99 and highest latency of each second, and dashed lines at the marks, in seconds."""
    lines = {"p50": "p50_us", "p99": "p99_us", "max": "max_us"}
    points = {name: [(second["seconds"], second[field] / 1e3) for second in series if second[field]] for name, field in lines.items()}
    highest = max((at for line in points.values() for at, _ in line), default=1)
    plane = Plane(title, "seconds", "latency, ms", None, bounds([ms for line in points.values() for _, ms in line] or [1]), highest)
    for mark in marks:
        plane.upright(mark, "#999", 'stroke-dasharray="4"')
    for place, (name, line) in enumerate(points.items()):
        plane.line(name, place, line)
    return plane.text()


class Plane:
    """Two axes: upright by powers of ten, since latencies differ by orders of magnitude; along by them too, or from 0 to `end`."""

    def __init__(self, title, along, upright, powers_along, powers_upright, end=None):
        self.powers_along, self.powers_upright, self.end = powers_along, powers_upright, end
        self.parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
                      f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
                      f'<text x="{WIDTH / 2}" y="24" text-anchor="middle" font-size="14">{html.escape(title)}</text>',
                      f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle">{along}</text>',
                      f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})">{upright}</text>']
        for value in [10 ** power for power in range(powers_along[0], powers_along[1] + 1)] if powers_along else steps(end):
            self.upright(value, "#ddd")
            self.parts.append(f'<text x="{self.x(value):.1f}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">{value:,}</text>')
        for power in range(powers_upright[0], powers_upright[1] + 1):
            at = self.y(10 ** power)
            self.parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
            self.parts.append(f'<text x="{MARGIN - 6}" y="{at + 4:.1f}" text-anchor="end">{10 ** power:g}</text>')

    def x(self, value):
        low, high = self.powers_along or (0, self.end)
        value = math.log10(value) if self.powers_along else value
        return MARGIN + (value - low) / (high - low) * (WIDTH - 2 * MARGIN)

    def y(self, value):
        low, high = self.powers_upright
        return HEIGHT - MARGIN - (math.log10(value) - low) / (high - low) * (HEIGHT - 2 * MARGIN)

    def upright(self, value, colour, more=""):
        at = self.x(value)
        self.parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{MARGIN}" y2="{HEIGHT - MARGIN}" stroke="{colour}" {more}/>')

    def line(self, name, place, points):
        """`place` is that of its name in the legend."""
        colour, path = COLOURS.get(name, OTHER), " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        self.parts.append(f'<text x="{MARGIN + 8}" y="{MARGIN + 16 + 16 * place}" fill="{colour}">{html.escape(name)}</text>')

    def point(self, name, x, y, text):
        self.parts.append(f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3" fill="{COLOURS.get(name, OTHER)}">'
                          f'<title>{html.escape(text)}</title></circle>')

    def text(self):
        return "\n".join(self.parts) + "\n</svg>\n"


def bounds(values):
    """The powers of ten around the values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def steps(end):
    """Round numbers from 0 to the end, about ten of them."""
    size = next(step for step in (1, 2, 5, 10, 30, 60, 300, 600, 3600, math.inf) if end / step <= 12)
    return [size * place for place in range(int(end / size) + 1)] if size != math.inf else [0]
