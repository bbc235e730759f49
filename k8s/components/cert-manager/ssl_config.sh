# Writes TensorFlow Serving's ssl_config_file, an SSLConfig in text format that holds the PEM files themselves.
set -eu
tls=${1:-/tls}
field() {
    echo "$1:"
    sed 's/.*/  "&\\n"/' "$2"
}
umask 077
{
    field server_key "$tls/tls.key"
    field server_cert "$tls/tls.crt"
    field custom_ca "$tls/ca.crt"
    echo 'client_verify: true'
} >"${2:-/ssl}/ssl.config"
