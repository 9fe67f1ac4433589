"""``python -m ts_lightning``: the command line for any module."""

from ts_lightning.cli.main import main

main()
