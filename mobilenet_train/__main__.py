"""`python -m mobilenet_train` is `mnet-train`."""

from mobilenet_train.cli.train import main

if __name__ == "__main__":
    main()
