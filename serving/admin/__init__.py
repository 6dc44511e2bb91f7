"""The way in for those who change the system: who may, and what they may say."""
