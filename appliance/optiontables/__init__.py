"""The built-in options by topic; optiontable.py puts them together."""
