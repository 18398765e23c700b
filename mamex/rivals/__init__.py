"""What MAMEX has to beat: closed forms, and the seven peers of Table 1 behind the trainer's door."""
