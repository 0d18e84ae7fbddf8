"""`python -m enhance_ray`: the command line where its script is not on the path."""

import sys

from enhance_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
