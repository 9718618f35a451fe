"""`python -m groundcrew` is `groundcrew`. Called by: people and scripts without the entry point on their PATH."""

from groundcrew.cli import main

main()
