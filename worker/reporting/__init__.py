"""`python -m worker report`: what many runs come to, as a table, a picture and JSON."""
