namespace OpenSora.Preparation.PublicSets.Downloads;

/// <summary>Knows the hosts that are in use.</summary>
internal sealed class HostLimits(DownloadOptions options, TimeProvider time)
{
    private const int MaxHosts = 4096;
    private readonly Dictionary<string, Host> _hosts = new(StringComparer.OrdinalIgnoreCase);

    /// <summary>Gets the host of an address. Dispose of the result after use; hosts without users are forgotten when there are many.</summary>
    internal Lease Rent(Uri address)
    {
        lock (_hosts)
        {
            var key = address.GetLeftPart(UriPartial.Authority);
            if (!_hosts.TryGetValue(key, out var host))
            {
                if (_hosts.Count >= MaxHosts)
                {
                    foreach (var (other, _) in _hosts.Where(pair => pair.Value.Users == 0 && pair.Value.IsIdle).ToArray())
                    {
                        _hosts.Remove(other);
                    }
                }

                _hosts[key] = host = new Host(options, time);
            }

            host.Users++;
            return new Lease(this, host);
        }
    }

    internal sealed class Lease(HostLimits owner, Host host) : IDisposable
    {
        internal Host Host => host;

        public void Dispose()
        {
            lock (owner._hosts)
            {
                host.Users--;
            }
        }
    }
}

/// <summary>Limits the requests to one host: how many at a time, how often, how fast.</summary>
internal sealed class Host(DownloadOptions options, TimeProvider time)
{
    private readonly SemaphoreSlim _slots = new(options.ConnectionsPerHost);
    private readonly Lock _lock = new();
    private int _failures; // files one after another
    private DateTimeOffset _nextStart = DateTimeOffset.MinValue,
        _nextByte = DateTimeOffset.MinValue,
        _pausedUntil = DateTimeOffset.MinValue;

    internal int Users { get; set; }

    /// <summary>The rules of robots.txt once they are read, and the lock for reading them.</summary>
    internal RobotsRules? Robots { get; set; }

    internal SemaphoreSlim RobotsLock { get; } = new(1);

    internal bool IsIdle
    {
        get
        {
            lock (_lock)
            {
                return time.GetUtcNow() is var now && now > _nextStart && now > _pausedUntil;
            }
        }
    }

    /// <summary>Indicates that the host asked for a wait that is longer than a run waits, or failed too often.</summary>
    internal bool IsGivenUp
    {
        get
        {
            lock (_lock)
            {
                return _pausedUntil > time.GetUtcNow() + options.MaxRetryAfter || _failures >= options.HostFailureLimit;
            }
        }
    }

    /// <summary>Throws if no further requests are sent in this run.</summary>
    internal void ThrowIfGivenUp()
    {
        if (IsGivenUp)
        {
            throw DownloadFailure.Passing("host is unavailable", "The host asked for a long wait, or too many files failed one after another.");
        }
    }

    /// <summary>Counts files that fail one after another.</summary>
    internal void Finish(bool isFailure)
    {
        lock (_lock)
        {
            _failures = isFailure ? _failures + 1 : 0;
        }
    }

    /// <summary>Waits for a turn to send a request. Dispose of the result when the response is read.</summary>
    internal async Task<IDisposable> EnterAsync(CancellationToken cancellationToken)
    {
        await _slots.WaitAsync(cancellationToken).ConfigureAwait(false);
        try
        {
            while (Wait() is var wait && wait > TimeSpan.Zero)
            {
                ThrowIfGivenUp();
                await Task.Delay(wait, time, cancellationToken).ConfigureAwait(false);
            }

            return new Slot(_slots);
        }
        catch
        {
            _slots.Release();
            throw;
        }
    }

    /// <summary>Delays all further requests.</summary>
    internal void Pause(TimeSpan wait)
    {
        lock (_lock)
        {
            var until = time.GetUtcNow() + wait;
            _pausedUntil = until > _pausedUntil ? until : _pausedUntil;
        }
    }

    /// <summary>Waits after bytes were received, so that the rate is not exceeded.</summary>
    internal async ValueTask SpendAsync(int bytes, CancellationToken cancellationToken)
    {
        if (options.BytesPerSecondPerHost is not { } rate)
        {
            return;
        }

        TimeSpan wait;
        lock (_lock)
        {
            var now = time.GetUtcNow();
            _nextByte = (_nextByte > now ? _nextByte : now) + TimeSpan.FromSeconds((double)bytes / rate);
            wait = _nextByte - now;
        }

        await Task.Delay(wait, time, cancellationToken).ConfigureAwait(false);
    }

    // The time until a request may start; it is zero for one caller at a time.
    private TimeSpan Wait()
    {
        lock (_lock)
        {
            var now = time.GetUtcNow();
            var start = _nextStart > _pausedUntil ? _nextStart : _pausedUntil;
            if (start > now)
            {
                return start - now;
            }

            var delay = Robots?.CrawlDelay is { } asked && asked > options.DelayPerHost ? asked : options.DelayPerHost;
            _nextStart = now + delay;
            return TimeSpan.Zero;
        }
    }

    private sealed class Slot(SemaphoreSlim slots) : IDisposable
    {
        public void Dispose() => slots.Release();
    }
}
