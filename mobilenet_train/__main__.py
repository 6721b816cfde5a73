"""`python -m mobilenet_train` is `mnet-train`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:  # -m put the current folder first, where a random.py would hide Python's own
        sys.path.append(sys.path.pop(0))

    from mobilenet_train.cli.train import main

    main()
