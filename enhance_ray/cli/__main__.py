"""`python -m enhance_ray.cli`."""

import sys

from enhance_ray.cli import main

sys.exit(main())
