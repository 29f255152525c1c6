namespace TorchSharp;

/// <summary>Disposes of what was created while it was the innermost scope of its thread, except what was moved out.</summary>
public sealed class DisposeScope : IDisposable
{
    [ThreadStatic]
    private static DisposeScope? innermost;

    private readonly HashSet<IDisposable> disposables = new(ReferenceEqualityComparer.Instance);
    private readonly DisposeScope? outer;
    private bool closed;

    internal DisposeScope()
    {
        outer = Current;
        innermost = this;
    }

    public int DisposablesCount => disposables.Count;

    public IReadOnlyList<IDisposable> DisposablesView => [.. disposables];

    /// <summary>The thread's innermost scope. One that another thread closed is passed over.</summary>
    internal static DisposeScope? Current
    {
        get
        {
            if (innermost is { closed: true } scope) innermost = scope.Outer;
            return innermost;
        }
    }

    internal DisposeScope? Outer
    {
        get
        {
            var scope = outer;
            while (scope is { closed: true }) scope = scope.outer;
            return scope;
        }
    }

    public void Attach(IDisposable disposable)
    {
        if (disposable is torch.Tensor tensor) tensor.Scope = this;
        lock (disposables) disposables.Add(disposable);
    }

    public void Attach(params IDisposable[] disposables)
    {
        foreach (var disposable in disposables) Attach(disposable);
    }

    public IReadOnlyList<IDisposable> Attach(IEnumerable<IDisposable> disposables)
    {
        IReadOnlyList<IDisposable> all = [.. disposables];
        foreach (var disposable in all) Attach(disposable);
        return all;
    }

    public bool Contains(IDisposable disposable)
    {
        lock (disposables) return disposables.Contains(disposable);
    }

    public T Detach<T>(T disposable)
        where T : IDisposable
    {
        if (Forget(disposable) && disposable is torch.Tensor tensor) tensor.Scope = null;
        return disposable;
    }

    public (T1 first, T2 second) Detach<T1, T2>(T1 first, T2 second)
        where T1 : IDisposable
        where T2 : IDisposable
        => (Detach(first), Detach(second));

    public void Detach(params IDisposable[] disposables) => Detach((IEnumerable<IDisposable>)disposables);

    public void Detach(IEnumerable<IDisposable> disposables)
    {
        foreach (var disposable in disposables) Detach<IDisposable>(disposable);
    }

    public T MoveToOuter<T>(T disposable)
        where T : IDisposable
        => Move(Outer, disposable);

    public (T1 first, T2 second) MoveToOuter<T1, T2>(T1 first, T2 second)
        where T1 : IDisposable
        where T2 : IDisposable
        => (MoveToOuter(first), MoveToOuter(second));

    public (T1 first, T2 second, T3 third) MoveToOuter<T1, T2, T3>(T1 first, T2 second, T3 third)
        where T1 : IDisposable
        where T2 : IDisposable
        where T3 : IDisposable
        => (MoveToOuter(first), MoveToOuter(second), MoveToOuter(third));

    public void MoveToOuter(params IDisposable[] disposables) => MoveToOuter((IEnumerable<IDisposable>)disposables);

    public void MoveToOuter(IEnumerable<IDisposable> disposables)
    {
        foreach (var disposable in disposables) MoveToOuter<IDisposable>(disposable);
    }

    public T MoveToOther<T>(DisposeScope scope, T disposable)
        where T : IDisposable
        => Move(scope, disposable);

    public void MoveToOther(DisposeScope scope, params IDisposable[] disposables) => MoveToOther(scope, (IEnumerable<IDisposable>)disposables);

    public void MoveToOther(DisposeScope scope, IEnumerable<IDisposable> disposables)
    {
        foreach (var disposable in disposables) Move(scope, disposable);
    }

    public void MarkAsDisposed(IDisposable disposable) => Forget(disposable);

    public void DisposeEverything() => DisposeEverythingBut([]);

    public void DisposeEverythingBut(IEnumerable<IDisposable> inKeep)
    {
        var keep = new HashSet<IDisposable>(inKeep, ReferenceEqualityComparer.Instance);
        IDisposable[] all;
        lock (disposables)
        {
            all = [.. disposables.Where(d => !keep.Contains(d))];
            disposables.ExceptWith(all);
        }

        foreach (var disposable in all) disposable.Dispose();
    }

    public void DisposeEverythingBut(params IDisposable[] keep) => DisposeEverythingBut((IEnumerable<IDisposable>)keep);

    public T DisposeEverythingBut<T>(T keep)
        where T : IDisposable
    {
        DisposeEverythingBut([keep]);
        return keep;
    }

    public void Dispose()
    {
        if (closed) return;
        closed = true;
        DisposeEverything();
    }

    private bool Forget(IDisposable disposable)
    {
        lock (disposables) return disposables.Remove(disposable);
    }

    private T Move<T>(DisposeScope? scope, T disposable)
        where T : IDisposable
    {
        if (!Forget(disposable)) return disposable;
        if (disposable is torch.Tensor tensor) tensor.Scope = null;
        scope?.Attach(disposable);
        return disposable;
    }
}
