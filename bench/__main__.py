"""``python -m bench VERB``."""

if __name__ == "__main__":
    from bench.cli import main  # not above: processes that score lanes import this file, and need no PyTorch

    main()
