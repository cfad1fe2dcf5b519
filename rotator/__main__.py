"""`python -m rotator` is `rotator`."""

from rotator.cli import main

main()
