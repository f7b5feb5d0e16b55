"""Drawing a head: rasteriser, buffers, light."""
