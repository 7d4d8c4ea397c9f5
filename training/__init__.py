"""Commands that train, and the command line `hyenadna`."""
