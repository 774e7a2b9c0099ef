"""What `jaxft.predict` reads and writes, by task."""
