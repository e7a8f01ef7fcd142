"""OpenAI's routes over the language models that are served: requests, answers, errors and streams as its client knows them."""
