"""The parent's handles on its warden and child; runner imports it."""
