"""The live page of runs that go on: `flow watch`. It reads the files of a folder and writes, locks and starts nothing."""
