"""`python -m dermserve.modelserver`."""

import sys

from dermserve.modelserver import main

sys.exit(main())
