"""`python -m dgbatch` is `dgbatch`."""

from dgbatch.cli import main

if __name__ == "__main__":
    main()
