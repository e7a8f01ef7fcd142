"""The loop that learns in a second: what people do changes what the next one is shown, while both go on."""
