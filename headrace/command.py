"""Entry point of the ``headrace`` command: checks whose packages are imported, then runs it."""

from __future__ import annotations

import sys

from headrace.packages import require_ours


def main() -> int:
    """Run the command and return its exit status: 2 if one of our packages is foreign."""
    try:
        require_ours()
    except ImportError as error:
        print(f"headrace: {error}", file=sys.stderr)
        return 2
    from deployments.cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
