"""Small networks that say what is in a picture."""
