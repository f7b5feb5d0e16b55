"""Nodes for ComfyUI; `emorig comfyui` shows them to it."""
