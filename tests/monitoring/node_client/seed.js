// The API document's section 7, word for word; the test puts the server's address and key in.
const io = require('socket.io-client');

const socket = io('http://localhost:5000', {
    auth: {
        token: 'your_api_key_here'
    }
});

socket.emit('subscribe', {
    channels: ['system_metrics', 'gpu_metrics', 'inference_stats']
});

socket.on('system_metrics', (data) => {
    console.log('System metrics:', data);
    // {
    //     timestamp: '2025-01-01T12:00:00Z',
    //     cpu_usage: 45.2,
    //     memory_usage: 67.8,
    //     request_rate: 42.3
    // }
});

socket.on('gpu_metrics', (data) => {
    console.log('GPU metrics:', data);
    // {
    //     timestamp: '2025-01-01T12:00:00Z',
    //     gpu_id: 0,
    //     utilization: 89.1,
    //     memory_used: 19276,
    //     temperature: 72
    // }
});

socket.emit('subscribe', {
    channels: ['inference_events']
});

socket.on('inference_started', (data) => {
    console.log('Inference started:', data.request_id);
});

socket.on('inference_completed', (data) => {
    console.log('Inference completed:', data.request_id, data.result);
});

socket.emit('subscribe', {
    channels: ['plugin_events']
});

socket.on('plugin_loaded', (data) => {
    console.log('Plugin loaded:', data.plugin_id);
});

socket.on('plugin_error', (data) => {
    console.log('Plugin error:', data.plugin_id, data.error);
});
