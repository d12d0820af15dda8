# docker build -t mycodeinterpreter .
# docker run -it --name myinterpreter -e NGROK_AUTHTOKEN=... mycodeinterpreter
FROM python:3.13-slim

# tini reaps the processes that commands leave behind.
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini sudo curl git \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir ngrok==1.7.0 \
    && useradd --create-home --shell /bin/bash worker \
    && echo "worker ALL=(ALL) NOPASSWD: ALL" > /etc/sudoers.d/worker

COPY mycodeinterpreter.py openapi_template.json /opt/mycodeinterpreter/

USER worker
WORKDIR /home/worker

# Arguments after the image's name come after the program's; AUTH among them, or -e AUTH_KEY=..., replaces noauth.
ENV AUTH_KEY=noauth
ENTRYPOINT ["tini", "--", "python3", "/opt/mycodeinterpreter/mycodeinterpreter.py"]
