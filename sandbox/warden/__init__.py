"""The process between parent and child: starts, watches and ends the child's tree. Imported by start."""
