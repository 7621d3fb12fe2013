"""An adapted client on a page of this machine: `flow serve`."""
