"""The tables of wrong calls in Python, by what is called; `wrong_calls.py` gathers them."""
