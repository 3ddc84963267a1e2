"""A page in the browser on which holes are painted and filled. Gradio is imported where the page is built."""
