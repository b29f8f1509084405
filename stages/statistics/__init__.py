"""Stage `statistics`: figures and pictures of the documents."""
