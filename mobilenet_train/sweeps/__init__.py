"""Many runs from one command: named, resumed, run side by side, and put together in a table and a picture."""
