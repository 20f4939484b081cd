"""`python -m keras_mae.cli`."""

from keras_mae.cli import main

main()
