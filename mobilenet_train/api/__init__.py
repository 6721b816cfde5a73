"""What `import mobilenet_train` offers beside `load` and `info`: training and sweeping from Python."""
