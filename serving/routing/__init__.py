"""Which version a request goes to: a frozen table, swapped as a whole."""
