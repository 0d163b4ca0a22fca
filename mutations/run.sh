#!/usr/bin/env bash
# Puts one deliberate bug after another into a clean tree of HEAD and demands that the suite finds it: see README.md.
#   mutations/run.sh               all of them
#   mutations/run.sh 07 fence      those whose names contain one of these
# What was built stays in target/mutations (or CARGO_TARGET_DIR), and what was said, in target/mutations-said.
set -uo pipefail
top=$(git -C "$(dirname "$0")" rev-parse --show-toplevel) || exit 2
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$top/target/mutations}
said=$top/target/mutations-said
# No command takes as long on two slow cores; a bug may well make something wait for ever.
seconds_max=2400

home=$(mktemp -d) && tree=$home/tree && mkdir -p "$said" || exit 2
git -C "$top" worktree add --quiet --detach "$tree" HEAD || exit 2
trap 'git -C "$top" worktree remove --force "$tree"; rm -rf "$home"' EXIT

# The value of a line of a patch's header.
field() { sed -n '/^diff --git/q; s/^'"$2"': //p' "$1"; }
# Runs a command of a header in the tree; what it says goes to the file.
run() { (cd "$tree" && timeout "$seconds_max" bash -c "$1") >"$2" 2>&1; }

patches=()
for patch in "$top"/mutations/*.patch; do
    [ $# -eq 0 ] && patches+=("$patch")
    for word; do [[ $(basename "$patch") == *"$word"* ]] && patches+=("$patch") && break; done
done
[ ${#patches[@]} -gt 0 ] || { echo "no mutation is called that" >&2; exit 2; }

echo "$(git -C "$tree" log -1 --format='%h %s'): what must pass without a bug"
while read -r command; do
    run "$command" "$said/clean" || { echo "FAILED without a bug: $command"; tail -40 "$said/clean"; exit 1; }
    echo "passed  $command"
done < <(for patch in "${patches[@]}"; do field "$patch" Command; done | sort -u)

bad=0
printf '\n%-36s %-9s %7s  %s\n' mutation verdict seconds said
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    # Not a tree of its own each: what a patch does not touch need not be built again.
    git -C "$tree" checkout --quiet --force HEAD && git -C "$tree" clean --quiet --force -d || exit 2
    git -C "$tree" apply "$patch" || exit 2
    began=$SECONDS
    if run "$(field "$patch" Command)" "$said/$name"; then
        verdict=SURVIVED
    elif grep --quiet --extended-regexp -- "$(field "$patch" Output)" "$said/$name"; then
        verdict=caught
    else
        # It may not have been built.
        verdict=UNCLEAR
    fi
    [ $verdict = caught ] || bad=$((bad + 1))
    line=$(grep --max-count=1 --extended-regexp -- "$(field "$patch" Output)" "$said/$name")
    printf '%-36s %-9s %7s  %s\n' "$name" "$verdict" $((SECONDS - began)) "${line:0:150}"
done
echo "${#patches[@]} mutations, $bad not caught; what each said is in $said"
[ $bad -eq 0 ]
