"""Pages that show a spec: `lossspec show` and the docs."""
