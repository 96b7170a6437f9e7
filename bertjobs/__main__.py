"""`python -m bertjobs`, the same as the command `bertjobs`."""

from bertjobs.cli.main import main

if __name__ == "__main__":
    main()
