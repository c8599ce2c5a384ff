"""`python -m unmask COMMAND ...`."""

from unmask.cli import main

main()
