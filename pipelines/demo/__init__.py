"""The demo's videos: handwritten digits in motion, and games at random play."""
