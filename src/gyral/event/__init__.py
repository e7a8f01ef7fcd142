"""What flows: the Event, its codec and its clock."""
