// Connects as `node watch.js URL OPTIONS EMITS` says (both JSON) and prints a JSON line for everything that happens.
// EMITS are [name, data] pairs, sent after each connect; their acknowledgements are printed too.
const { io } = require('socket.io-client');

const [url, options, emits] = process.argv.slice(2);
const say = (kind, data) => process.stdout.write(JSON.stringify([kind, data === undefined ? null : data]) + '\n');
const socket = io(url, JSON.parse(options));

socket.on('connect', () => {
    say('connect', { transport: socket.io.engine.transport.name });
    socket.io.engine.once('upgrade', (transport) => say('upgrade', { transport: transport.name }));
    for (const [name, data] of JSON.parse(emits)) {
        socket.emit(name, data, (answer) => say('ack', answer));
    }
});
socket.on('connect_error', (error) => say('connect_error', { message: error.message, data: error.data }));
socket.on('disconnect', (reason) => say('disconnect', { reason }));
socket.onAny((name, data) => say('event', { name, data }));
process.stdin.on('end', () => process.exit(0)).resume();
