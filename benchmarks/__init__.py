"""What the speed of the search is measured with. Not part of the installed package."""
