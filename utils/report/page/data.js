const CHANNELS = {{ data | tojson }};
