"""Dead letters: headers, causes, replay schedule, pricing and duplicate protection."""
