"""Dead letters: causes, replay schedule, orders, pricing and duplicate protection."""
