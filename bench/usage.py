"""What ``--help`` shows below the options: examples to copy for every verb, and completion for shells."""

from __future__ import annotations

import shlex
import sys
from typing import Any

EXIT_CODES = "Exit codes: 0 done, 1 something has no score or is missing, 2 bad input, 130 interrupted."
EXAMPLES: dict[str, tuple[str, ...]] = {
    "list": ("list", "list --json | jq '.[].detector'"),
    "run": (
        "run                                    the quick profile",
        "run --methods fp32,qdrop,selective-focus --bits w4a4,w3a3 --seeds 0,1,2 --name three-seeds",
        "run --dataset tusimple --root /data/tusimple --detectors lstr --weights weights/lstr/LSTR_tusimple_500000.pkl",
    ),
    "ls": ("ls", "ls --json | jq '.[].cells'"),
    "gc": ("gc                                     what would go", "gc --name quick --yes"),
    "culane": ("culane --root /data/CULane --weights weights/ --limit 500",),
    "ablate": ("ablate --grid all", "ablate --grid share --limit 200"),
    "noise": (
        "noise",
        "noise --detectors scnn --name quick",
    ),
    "table": ("table --name quick", "table --name quick --json"),
    "plot": ("plot --name quick",),
    "score": ("score --annotations /data/CULane --predictions out/ --list /data/CULane/list/test.txt",),
    "doctor": ("doctor", "doctor --device cuda"),
    "predict": (
        "predict --image road.jpg --out lanes.png",
        "predict --image drive.mp4 --out lanes.mp4 --detector clrnet:r18 --weights weights/clrnet/culane_r18.pth.zip",
    ),
    "claims": ("claims", "claims --results results/runs/three-seeds --json"),
    "report": (
        "report                                 the committed records",
        "report --name quick                    a run of yours",
        "report --records DIR --root /data/CULane --out page.html",
    ),
    "completion": ('eval "$(python -m bench completion)"',),
}


def epilog(verb: str) -> str:
    """The examples of a verb, a paragraph a line as the help formatter wants them."""
    lines = [line if line.startswith("eval") else f"python -m bench {line}" for line in EXAMPLES[verb]]
    return "\n\n".join(["Examples:", *lines])


def completion(group: Any) -> str:
    """A Bash script (zsh: after ``bashcompinit``) that defines ``bench`` and completes its verbs, options and files.

    It is made from the commands themselves and starts no Python when the key is pressed.
    """
    cases = []
    for name, command in sorted(group.commands.items()):
        options = sorted(
            option for parameter in command.params for option in parameter.opts if option[0] == "-"
        )
        cases.append(f'        {name}) words="{" ".join([*options, "--help"])}" ;;')
    return "\n".join(
        [
            f'bench() {{ {shlex.quote(sys.executable)} -m bench "$@"; }}',
            "_bench() {",
            '    local word="${COMP_WORDS[COMP_CWORD]}" words=""',
            '    case "${COMP_WORDS[1]}" in',
            *cases,
            "    esac",
            f'    if [ "$COMP_CWORD" = 1 ]; then words="{" ".join(sorted(group.commands))}"; fi',
            '    if [ "$COMP_CWORD" != 1 ] && [ "${word#-}" = "$word" ]; then',
            '        COMPREPLY=($(compgen -f -- "$word"))',
            "    else",
            '        COMPREPLY=($(compgen -W "$words" -- "$word"))',
            "    fi",
            "}",
            "complete -o filenames -F _bench bench",
        ]
    )
