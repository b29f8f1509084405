"""Stage `statistics`: statistics and plots of the documents."""
