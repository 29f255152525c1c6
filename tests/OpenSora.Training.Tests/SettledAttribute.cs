using System.Reflection;
using System.Runtime.CompilerServices;
using OpenSora.Models.Layers;
using OpenSora.Training.Stages;
using Xunit.v3;

[assembly: OpenSora.Training.Tests.Settled]

namespace OpenSora.Training.Tests;

/// <summary>Runs the finalizers before each test, so that tensors of earlier tests do not disappear while a test counts live tensors.</summary>
[AttributeUsage(AttributeTargets.Assembly)]
internal sealed class SettledAttribute : BeforeAfterTestAttribute
{
    [ModuleInitializer]
    internal static void CountWorkerGradients() => TensorCount.Absent = () => Gradients.AbsentCount + WorkerGradients.AbsentCount;

    public override void Before(MethodInfo methodUnderTest, IXunitTest test)
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
    }
}
