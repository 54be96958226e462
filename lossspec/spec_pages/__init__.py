"""The pages of a spec: `lossspec show` in a terminal, and Markdown for the docs."""
