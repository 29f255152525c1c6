namespace OpenSora.Runtime;

/// <summary>Something that several users share: it is loaded for the first one and unloaded after the last one. This type is thread-safe.</summary>
/// <param name="load">Loads it. If this throws an exception, there is no user.</param>
/// <param name="unload">Unloads it.</param>
internal sealed class OnDemand(Action load, Action unload)
{
    private readonly Lock _gate = new();
    private int _users;

    /// <summary>Adds a user until the result is disposed. While another user is loading, the caller waits.</summary>
    public Lease Use()
    {
        lock (_gate)
        {
            if (_users == 0)
            {
                load();
            }

            _users++;
        }

        return new Lease(this);
    }

    private void Return()
    {
        lock (_gate)
        {
            if (--_users == 0)
            {
                unload();
            }
        }
    }

    /// <summary>A user. The default value is a user of nothing.</summary>
    public readonly struct Lease(OnDemand? used) : IDisposable
    {
        /// <summary>Removes the user.</summary>
        public void Dispose() => used?.Return();
    }
}
